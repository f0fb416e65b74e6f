"""The parts of a training loop in JAX: optimizer, step, exact resume, metrics, watchdog, time box."""
