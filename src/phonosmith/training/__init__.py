"""Fine-tuning: one loop, every strategy a preset over orthogonal axes."""
