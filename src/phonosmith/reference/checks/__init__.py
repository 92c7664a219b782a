"""What is asked of one calculation: its numbers, VASP's own record of how it came to them, what had been asked."""
