"""What a training takes of memory: what it needs, what it may take, and how it ends where there is too little."""
