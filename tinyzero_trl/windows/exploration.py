"""Which groups go on whatever the rule says, so that what lies beyond a stop stays measured.

Each group is drawn at the start of a rollout with a small known probability. The probability is such that the tokens
added are expected to be `explore_share` of those that the rule spends or of those that it saves, whichever is less. The
draw depends on `seed`, on the number of the rollout and on the group's place alone.

A single group that explores takes all the decoding steps of a rollout. So where a step has a price, groups explore
together: in one rollout of eight, and there eight times as often (with `memory_rollouts: 24`; three of the remembered
rollouts explore).
"""

import random

from tinyzero_trl.windows.group_config import GroupConfig
from tinyzero_trl.windows.stopping import Expected

_LEAST, _TO_CATCH_UP = 0.01, 0.1  # probabilities
_ROLLOUTS_TOGETHER = 3  # of those that are remembered, where a step has a price


class Exploration:
    """Draws groups with `probability`.

    Args:
        config: the fields of the policy.
    """

    def __init__(self, config: GroupConfig) -> None:
        self._config = config
        self.probability = config.explore_share

    def is_drawn(self, rollout: int, group: int) -> bool:
        """Whether a group explores if the rule would stop it.

        Args:
            rollout: its number, from 0.
            group: its place in the rollout, from 0.
        """
        probability, seed = self.probability, self._config.seed
        if self._config.group_price == "seconds":
            most = int(1 / probability) if probability else 1  # beyond it, fewer would explore than is asked
            rollouts = max(1, min(self._config.memory_rollouts // _ROLLOUTS_TOGETHER, most))
            lap, place = divmod(rollout, rollouts)
            explores = place == random.Random(f"{seed} {lap}").randrange(rollouts)
            probability *= rollouts * explores
        return random.Random(f"{seed} {rollout} {group}").random() < probability

    def adapt(self, rule: Expected, full: Expected, *, enough_is_known: bool) -> None:
        """Choose the probability for the next rollout.

        Args:
            rule: what is expected of a group under the rule.
            full: what is expected of a group that goes on to the end.
            enough_is_known: whether so much is remembered that groups may stop; else more explore until it is.
        """
        share = self._config.explore_share
        if not enough_is_known:
            self.probability = _TO_CATCH_UP
        elif share:
            per_token_saved = rule.tokens / max(full.tokens - rule.tokens, 1e-9)
            self.probability = max(min(_LEAST, share), share * min(1.0, per_token_saved))
        else:
            self.probability = 0.0
