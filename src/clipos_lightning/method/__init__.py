"""The paper's steps on features: mask, outlier synthesis, prompts, objectives; and the few-shot images' features."""
