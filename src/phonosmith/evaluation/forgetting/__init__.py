"""What fine-tuning cost elsewhere."""
