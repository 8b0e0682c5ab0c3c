"""Run directories whose curves are known."""

from tinyzero_trl.runs.records import RunRecords


def train(path, *, seed=0, speed=1.0, best=0.8, steps=8, evaluate_every=2, finished=True, **config):
    """A run of 1,000 tokens and 2 s a step, plus 5 s per evaluation; accuracy climbs to `best` at step 8 / speed."""
    records = RunRecords(path)
    records.write_config({"recipe": "full", "window_strategy": "fixed", "window_max": 512, "seed": seed, **config})
    records.write_environment(["cpu"])
    evaluations = 0
    for step in range(steps + 1):
        elapsed_s, wall_s = 2.0 * step, 2.0 * step + 5.0 * evaluations
        if step:
            figures = {
                "adaptive_window/current_window": 512,
                "adaptive_window/p95_success_length": 200.0,
                "adaptive_window/median_success_length": 90.0,
                "tokens/response_total": 1000,
                "tokens/response_cumulative": 1000 * step,
                "completion/truncated_frac": 0.1,
                "difficulty/3_acc": 0.5,
                "difficulty/4_acc": 0.2,
                "difficulty/3_mean_length": 60.0,
                "group/zero_variance_frac": 0.4,
                "actor/is_ratio/mean": 1.0,
                "actor/is_log_ratio/mean": -0.001,
                "time/elapsed_s": elapsed_s,
            }
            records.append_metrics(step, wall_s, figures)
        if step % evaluate_every == 0:
            evaluations += 1
            accuracy = min(best, best * speed * step / 8)
            records.append_eval(step, wall_s + 5.0, 1000 * step, {"eval/acc": accuracy})
    for step in (0, steps):
        rows = [
            {
                "source": "eval",
                "prompt": f"make {target}",
                "completion": "<script>alert('x')</script></think><answer>1 & 2</answer>",
                "reward": float(step > 0),
                "reason": "correct" if step else "wrong-value",
                "length": 20,
            }
            for target in (1, 2)
        ]
        records.append_completions(step, rows)
    if finished:
        records.write_summary({"recipe": config.get("recipe", "full"), "seed": seed})
    return records.path
