"""Live recording of a case: the socket, the samplers, and turning what they wrote into tables."""
