"""Key families, and families that should be one."""
