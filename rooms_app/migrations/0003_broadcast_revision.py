"""Broadcasts count their revisions."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rooms_app", "0002_outbox")]

    operations = [
        migrations.AddField(
            model_name="broadcast",
            name="revision",
            field=models.PositiveIntegerField(default=1, editable=False),
        ),
    ]
