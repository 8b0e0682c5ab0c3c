"""From prompts to token ids, in training and in evaluation."""
