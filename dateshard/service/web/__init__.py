"""The service's answers over HTTP: routes, their bodies and problems, and what guards them."""
