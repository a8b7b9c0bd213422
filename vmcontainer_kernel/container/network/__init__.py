"""Networks of containers: bridges with addresses and names, ways out, and published ports."""
