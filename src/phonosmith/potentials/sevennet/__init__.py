"""SevenNet: files, energies with their derivatives."""
