"""Fine-tuning configurations: rattled, strained, relaxed, selected."""
