"""An installed app with messages, for the tests."""
