"""What a training minimises, and how: losses, optimizers and learning rate schedules."""
