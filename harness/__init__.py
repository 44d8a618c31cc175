"""What one training run needs behind the scenes; a learner need not look in here."""
