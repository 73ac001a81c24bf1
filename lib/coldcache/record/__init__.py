"""Live recording of a case: preflight, the socket, the guardian, the samplers, and turning what they wrote into tables."""
