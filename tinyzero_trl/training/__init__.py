"""GRPO training with a rollout window."""
