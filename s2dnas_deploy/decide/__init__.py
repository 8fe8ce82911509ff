"""Who goes where: rules, routes and flows, and the same decisions on recorded values. Knows no runtime."""
