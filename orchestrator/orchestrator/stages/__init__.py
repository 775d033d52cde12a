"""What each stage of a run does. A stage reads finished stages' files, writes its own folder and returns a summary."""
