"""Window policies by name: those of this package, those of installed packages, and those of a user's own module.

A policy is found under

1. the name that `@register_policy` gave it, once its module is imported;
2. the name of an entry point in the group `tinyzero_trl.policies`, whose value is `package.module:Class`;
3. `package.module:Class` itself. This form imports the module, so it runs its code.
"""

from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from tinyzero_trl.plugins import find_class, made, offered_names
from tinyzero_trl.windows.own_policies import checked_policy

if TYPE_CHECKING:
    from tinyzero_trl.windows.config import WindowConfig
    from tinyzero_trl.windows.policy import WindowPolicy

ENTRY_POINTS = "tinyzero_trl.policies"

PolicyT = TypeVar("PolicyT", bound="WindowPolicy[Any]")
_POLICIES: "dict[str, type[WindowPolicy[Any]]]" = {}


def register_policy(name: str, *, config: "type[WindowConfig]") -> Callable[[type[PolicyT]], type[PolicyT]]:
    """Make a subclass of `WindowPolicy` known as `window_strategy: name`.

    Args:
        name: what recipes call it. The name may not hold a colon.
        config: the dataclass of its fields, a subclass of `WindowConfig`. Recipes accept each field as
            `window_<field>`, and refuse the fields of other policies.

    Raises:
        ValueError: another policy has the name, or `config` is not a dataclass of its own.
    """
    if not name or ":" in name:
        raise ValueError(f"register_policy: {name!r} is not a name; give one without a colon, such as 'halving'")
    if "__dataclass_fields__" not in vars(config):
        raise ValueError(f"register_policy: {config.__name__} is not a dataclass; add @dataclass(frozen=True)")

    def register(policy: type[PolicyT]) -> type[PolicyT]:
        known = _POLICIES.get(name)
        if known is not None and _path(known) != _path(policy):
            raise ValueError(f"register_policy: {name!r} already names {_path(known)}; choose another name")
        policy.strategy, policy.config_class = name, config
        _POLICIES[name] = policy
        return policy

    return register


def make_policy(config: "WindowConfig") -> "WindowPolicy[Any]":
    """The policy that `config.strategy` names, before its first rollout.

    Raises:
        ValueError: `config.max` is not set, or the policy is not made as `checked_policy` says.
    """
    remedy = "let __init__ take the configuration alone"
    kind = find_policy(config.strategy)
    return checked_policy(made(kind, config, field="window_strategy", name=config.strategy, remedy=remedy))


def find_policy(strategy: str, *, field: str = "window_strategy") -> "type[WindowPolicy[Any]]":
    """The policy class behind `window_strategy`; imports its module where that is necessary.

    Args:
        strategy: a registered name, or package.module:Class.
        field: the field that holds it, for the message.

    Raises:
        ValueError: there is no such policy, its module cannot be imported, or the class is not registered.
    """
    if strategy in _POLICIES:
        return _POLICIES[strategy]
    policy: Any = find_class(str(strategy), field=field, group=ENTRY_POINTS)
    if policy is None:
        known = ", ".join(strategies())
        raise ValueError(f"{field}: {strategy!r} is unknown; choose one of {known}, or package.module:Class")
    if not hasattr(policy, "config_class"):
        raise ValueError(
            f"{field}: {strategy!r} is not a registered window policy; decorate a WindowPolicy with @register_policy"
        )
    return policy


def strategies() -> tuple[str, ...]:
    """The names that `window_strategy` accepts, besides `package.module:Class`."""
    return tuple(dict.fromkeys([*_POLICIES, *offered_names(ENTRY_POINTS)]))


def fields_read(strategy: str | None) -> frozenset[str]:
    """Names of the fields of a registered policy; empty if the name is not registered. Nothing is imported."""
    policy = _POLICIES.get(str(strategy))
    return frozenset(each.name for each in fields(policy.config_class)) if policy else frozenset()


def declarations(field: str) -> dict[str, Field[Any]]:
    """How each registered policy that has the field declares it, by the name of the policy."""
    found = ((strategy, each) for strategy, policy in _POLICIES.items() for each in fields(policy.config_class))
    return {strategy: each for strategy, each in found if each.name == field}


def unread_fields(strategy: str | None) -> frozenset[str]:
    """Names of the fields that only other policies read; empty if the name is not registered. Nothing is imported."""
    read = fields_read(strategy)
    return frozenset().union(*map(fields_read, _POLICIES)) - read if read else frozenset()


def strategy_of(config: "type[WindowConfig]") -> str:
    """The registered name of the policy whose fields `config` declares.

    Raises:
        ValueError: no policy has it.
    """
    for strategy, policy in _POLICIES.items():
        if policy.config_class is config:
            return strategy
    raise ValueError(f"window_strategy: {config.__name__} belongs to no policy; name it in @register_policy")


def _path(policy: type) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"
