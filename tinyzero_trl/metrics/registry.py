"""What every logged name means. `docs/metrics_tables.py` writes the tables of docs/metrics.md from it."""

import re
from typing import NamedTuple


class Metric(NamedTuple):
    """Unit, formula and one-line meaning of a figure."""

    unit: str
    formula: str
    meaning: str


# Completions are those of all ranks; one is correct (a success) when its reward >= success_threshold, and judged when
# it has a reward at all. Lengths are in tokens and cut at the window. `{label}` is the difficulty of a problem: the
# number of its operands, or whatever its task or a column `difficulty` says.
METRICS: dict[str, Metric] = {
    "adaptive_window/current_window": Metric(
        "tokens", "policy.window during the rollout", "Longest completion allowed in this batch"
    ),
    "adaptive_window/next_window": Metric(
        "tokens", "policy.window after the batch was observed", "Longest completion allowed in the next batch"
    ),
    "adaptive_window/mean_success_length": Metric(
        "tokens", "mean length of the correct completions", "Mean length of correct completions"
    ),
    "adaptive_window/median_success_length": Metric(
        "tokens", "median length of the correct completions", "Median length of correct completions"
    ),
    "adaptive_window/std_success_length": Metric(
        "tokens",
        "population standard deviation of the correct completions' lengths",
        "Spread of the length of correct completions",
    ),
    "adaptive_window/p95_success_length": Metric(
        "tokens",
        "0.95 quantile (linear) of the correct completions' lengths",
        "Length that 95 % of correct completions do not exceed",
    ),
    "adaptive_window/num_success_samples": Metric(
        "completions", "number of correct completions", "Correct completions in this batch"
    ),
    "adaptive_window/success_rate": Metric(
        "fraction", "correct completions / judged completions", "Share of this batch that is correct"
    ),
    "adaptive_window/success_rate_ema": Metric(
        "fraction",
        "a_t / (1 - 0.9^t), a_0 = 0, a_t = 0.9 a_(t-1) + 0.1 success_rate, over rollouts t",
        "Smoothed success rate",
    ),
    "adaptive_window/policy_success_rate": Metric(
        "fraction",
        "r_1 = s_1, r_t = beta r_(t-1) + (1 - beta) s_t, over rollouts t that did not explore; s is success_rate as "
        "the policy sees it, beta is window_success_rate_ema_beta (window_strategy: success)",
        "Success rate that the policy compares with its target",
    ),
    "adaptive_window/cumulative_success_rate": Metric(
        "fraction",
        "correct completions / judged completions, both since the start",
        "Success rate of the whole run so far",
    ),
    "adaptive_window/cumulative_reward": Metric(
        "reward", "sum of the rewards of all completions since the start", "Reward earned so far"
    ),
    "adaptive_window/exploration_rate": Metric(
        "fraction", "probes / rollouts since the start", "How often the policy looked beyond its window"
    ),
    "adaptive_window/epsilon": Metric(
        "probability", "the policy's configured epsilon", "Probability that the next rollout is a probe"
    ),
    "adaptive_window/explored_step": Metric(
        "0 or 1", "1 if this batch ran at the largest window as a probe", "Whether this batch is a probe"
    ),
    "adaptive_window/demand": Metric(
        "tokens",
        "mean + window_std_multiplier x deviation of remembered success lengths (window_strategy: success)",
        "Target length of the policy",
    ),
    "adaptive_window/best_window": Metric(
        "tokens",
        "window with most signal per token that keeps 1 - window_slack of the success (window_strategy: signal)",
        "Measured optimum; the window goes to window_headroom times this",
    ),
    "adaptive_window/estimated_success": Metric(
        "fraction",
        "S(window), product-limit estimate from censored lengths (window_strategy: signal)",
        "Estimated success within the window",
    ),
    "adaptive_window/estimated_success_at_max": Metric(
        "fraction",
        "S(window_max), product-limit estimate (window_strategy: signal)",
        "Estimated success at full length",
    ),
    "adaptive_window/estimated_unfinished_frac": Metric(
        "fraction",
        "P(length > window), product-limit estimate (window_strategy: signal)",
        "Estimated share of completions that the window cuts",
    ),
    "adaptive_window/estimated_signal": Metric(
        "fraction",
        "mean over prompts i of S_i (1 - S_i) at the window (window_strategy: signal)",
        "Estimated reward variance to learn from",
    ),
    "adaptive_window/token_price": Metric(
        "gain per token",
        "gain per token that a group needs to go on; absent while all groups go on (window_strategy: group)",
        "How strict the decision per group is",
    ),
    "adaptive_window/explore_probability": Metric(
        "fraction",
        "chance of each group to go on, whatever the rule says (window_strategy: group)",
        "Probability that a group goes on only to measure",
    ),
    "adaptive_window/rows_per_step": Metric(
        "rows",
        "a / b where a decoding step of n rows takes a + b n seconds (window_group_price: seconds)",
        "Rows that take as much time as a step without rows",
    ),
    "group_window/stopped_frac": Metric(
        "fraction", "groups cut before the longest window (window_strategy: group)", "Groups that stopped early"
    ),
    "group_window/continued_frac": Metric(
        "fraction", "groups that the rule let go on to their end", "Groups that were worth their tokens"
    ),
    "group_window/explored_frac": Metric(
        "fraction", "groups that went on against the rule, to measure", "Groups that went on only to measure"
    ),
    "group_window/mean_stop": Metric(
        "tokens", "mean over stopped groups of the end of the stage after which they stopped", "Where groups stopped"
    ),
    "group_window/tokens_saved_frac": Metric(
        "fraction",
        "s / (s + tokens spent); s estimates the tokens that stopped groups would have taken",
        "Estimated saving against the longest window",
    ),
    "actor/is_ratio/mean": Metric(
        "ratio", "mean of r = exp(log pi_new - log pi_old) over completion tokens", "Mean importance ratio"
    ),
    "actor/is_ratio/std": Metric("ratio", "population standard deviation of r", "Spread of the importance ratio"),
    "actor/is_ratio/p95": Metric(
        "ratio", "0.95 quantile (linear) of r", "Importance ratio that 95 % of tokens stay below"
    ),
    "actor/is_log_ratio/mean": Metric("nats", "mean of log r", "Mean log ratio; its negative estimates KL(old, new)"),
    "actor/is_log_ratio/std": Metric("nats", "population standard deviation of log r", "Spread of the log ratio"),
    "actor/is_clip/outside_frac": Metric(
        "fraction",
        "tokens with r outside the clip range / tokens (where the loss clips the ratios of tokens)",
        "Tokens outside the clip range, whether or not the loss clips them",
    ),
    "tokens/prompt_total": Metric(
        "tokens", "sum of prompt lengths (a prompt counts once per completion)", "Prompt tokens of this batch"
    ),
    "tokens/response_total": Metric(
        "tokens", "sum of the completions' lengths", "Rollout tokens generated in this batch"
    ),
    "tokens/overall_total": Metric("tokens", "prompt_total + response_total", "All tokens of this batch"),
    "tokens/response_cumulative": Metric(
        "tokens", "sum of response_total since the start", "Rollout tokens generated so far"
    ),
    "completion/truncated_frac": Metric(
        "fraction", "completions cut by the window, without end token / completions", "Completions that the window cut"
    ),
    "completion/finished_frac": Metric(
        "fraction",
        "completions that end with an end token or a stop string / all",
        "Completions that ended by themselves",
    ),
    "completion/truncated_correct_frac": Metric(
        "fraction",
        "correct truncated completions / judged truncated completions",
        "Accuracy of completions that the window cut",
    ),
    "completion/finished_correct_frac": Metric(
        "fraction",
        "correct finished completions / judged finished completions",
        "Accuracy of completions that ended by themselves",
    ),
    "completion/correct_mean_length": Metric(
        "tokens", "mean length of the correct completions", "Mean length of correct completions"
    ),
    "difficulty/{label}_acc": Metric(
        "fraction",
        "correct completions / judged completions, of problems with that label",
        "Accuracy by difficulty",
    ),
    "difficulty/{label}_count": Metric(
        "completions", "completions of problems with that label", "Completions by difficulty"
    ),
    "difficulty/{label}_mean_length": Metric(
        "tokens", "mean length of the completions of problems with that label", "Tokens of a completion, by difficulty"
    ),
    "group/zero_variance_frac": Metric(
        "fraction", "groups whose rewards are all equal / groups with a reward", "Groups that teach nothing"
    ),
    "group/all_correct_frac": Metric(
        "fraction",
        "groups with every judged completion correct / groups with a reward",
        "Groups that are already solved",
    ),
    "group/all_wrong_frac": Metric(
        "fraction", "groups with no correct completion / groups with a reward", "Groups that are still out of reach"
    ),
    "compute/rows_skipped_frac": Metric(
        "fraction",
        "completions left out of the loss, without an advantage or a trained token / completions",
        "Completions that cost no forward pass",
    ),
    "compute/padding_frac": Metric(
        "fraction", "padding positions / positions in the forward pass of the loss", "Computation spent on padding"
    ),
    "faults/step_skipped": Metric(
        "0 or 1", "1 if a loss, reward or the gradient norm was not finite", "Whether this step was skipped"
    ),
    "faults/skipped_steps": Metric("steps", "sum of step_skipped since the start", "Skipped optimizer steps so far"),
    "train/cumulative_reward": Metric(
        "reward", "sum over rollouts of the batch's mean reward", "Reward so far, comparable between batch sizes"
    ),
    "time/elapsed_s": Metric(
        "s", "wall-clock since the start of training, without evaluations", "Training time so far"
    ),
    "time/rollout_s": Metric("s", "wall-clock of generation and scoring of the batch", "Time of a rollout"),
    "time/optimize_s": Metric("s", "wall-clock of the step without its rollout", "Time of one step of learning"),
    "eval/acc": Metric(
        "fraction",
        "correct completions / judged completions, on the held-out set at max_completion_length",
        "Held-out accuracy",
    ),
    "eval/acc_low": Metric(
        "fraction",
        "lower bound of acc's 95 % interval: Wilson's, in which answers to one problem count as fewer trials",
        "Held-out accuracy, lower bound",
    ),
    "eval/acc_high": Metric("fraction", "upper bound of that interval", "Held-out accuracy, upper bound"),
    "eval/reward": Metric("reward", "mean reward of the held-out completions", "Held-out reward"),
    "eval/mean_length": Metric("tokens", "mean length of the held-out completions", "Held-out completion length"),
    "eval/truncated_frac": Metric(
        "fraction",
        "held-out completions cut at max_completion_length / completions",
        "Held-out completions without an end",
    ),
    "eval/n": Metric("completions", "number of judged held-out completions", "Answers that the accuracy rests on"),
    "eval/problems": Metric(
        "problems", "number of held-out problems with a judged completion", "Problems that the accuracy rests on"
    ),
    "eval/{label}_acc": Metric(
        "fraction",
        "correct completions / judged completions, of held-out problems with that label",
        "Held-out accuracy by difficulty",
    ),
}


def describe(name: str) -> Metric | None:
    """The registry's entry for a logged name such as `difficulty/3_acc`; None for a name that is not ours.

    Each of several evaluation sets has the figures of `eval/` under `eval_NAME/`; `eval_completions/` is TRL's.
    """
    name = re.sub(r"^eval_[^/]+(?<!completions)/", "eval/", name)
    if name in METRICS:
        return METRICS[name]
    return METRICS.get(re.sub(r"^(difficulty|eval)/.+_(acc|count|mean_length)$", r"\1/{label}_\2", name))
