"""Can this server be recorded, at what cost, and what would mend what is missing? Asked before every recording."""
