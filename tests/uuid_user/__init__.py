"""An app with a user model of a project's own: its primary key is a UUID."""
