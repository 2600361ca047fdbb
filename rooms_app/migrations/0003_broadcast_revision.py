"""Broadcasts count their revisions, and note how far they have been sent."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rooms_app", "0002_outbox")]

    operations = [
        migrations.AddField(
            model_name="broadcast",
            name="revision",
            field=models.PositiveIntegerField(default=1, editable=False),
        ),
        migrations.AddField(
            model_name="broadcast",
            name="sent_up_to",
            field=models.CharField(blank=True, default="", editable=False, max_length=255),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="broadcast",
            name="sending_up_to",
            field=models.CharField(blank=True, default="", editable=False, max_length=255),
            preserve_default=False,
        ),
    ]
