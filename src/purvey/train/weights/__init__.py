"""What is done to a network's weights beside descent: some are held fast, others averaged."""
