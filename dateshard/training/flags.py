"""The settings of a training that have a short name: an option of `train`, a keyword of `dateshard.train`."""

FLAGS = {  # short name -> place below `trainer`; the types are the schema's
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "seed": "training.seed",
    "max_steps": "training.max_steps",
    "sample_size": "training.sample_size",
    "memory_limit": "training.memory_limit",
    "device": "training.device",
    "save_freq": "checkpoint.save_freq",
    "policy": "loading.policy",
    "days_per_batch": "loading.days_per_batch",
}
