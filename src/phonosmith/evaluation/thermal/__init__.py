"""Heat: expansion, conductivity, phonons at a temperature and the stability there."""
