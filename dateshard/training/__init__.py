"""The online stage at the front door: a training, what a person sees of it, what is written of it, trials before it."""
