"""Published interatomic potentials with parameters instead of networks."""
