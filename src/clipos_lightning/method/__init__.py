"""The paper's steps on features: mask, synthesis, prompts, objectives."""
