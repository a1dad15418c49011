"""What people would write instead of trio-worker. The README beside this folder says what each does."""
