"""Commands about crystals, configurations and labels."""
