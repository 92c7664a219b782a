"""Fine-tune a foundation interatomic potential for one material and prove that its phonons can be trusted."""

__version__ = "0.1.0"
