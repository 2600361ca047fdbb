"""A team's project whose workers are killed."""
