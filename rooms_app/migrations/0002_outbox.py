"""The tables of the outbox and of the dead letters."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from rooms_app.conf import user_model_name

# AUTH_USER_MODEL, whatever the project has set it to.
USER_MODEL = user_model_name()


class Migration(migrations.Migration):
    dependencies = [
        ("rooms_app", "0001_initial"),
        migrations.swappable_dependency(USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="OutboxEntry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=20)),
                ("key", models.CharField(max_length=255)),
                ("body", models.JSONField(default=dict)),
                ("is_remembered", models.BooleanField(default=True)),
                ("due_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("done", "Done"), ("failed", "Failed")],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("claimed_by", models.CharField(blank=True, max_length=32)),
                ("claimed_until", models.DateTimeField(null=True)),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("error", models.TextField(blank=True)),
                ("done_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name_plural": "outbox entries",
                "ordering": ["due_at", "id"],
                "indexes": [
                    models.Index(fields=["state", "kind", "due_at"], name="rooms_outbox_due"),
                    models.Index(fields=["state", "done_at"], name="rooms_outbox_done"),
                ],
                "constraints": [models.UniqueConstraint(fields=["kind", "key"], name="rooms_outbox_key")],
            },
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("delivery", models.JSONField(default=dict)),
                ("topic", models.CharField(max_length=255)),
                ("handler", models.CharField(max_length=255)),
                ("reason", models.CharField(max_length=20)),
                ("error", models.TextField(blank=True)),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("published_at", models.DateTimeField(null=True)),
                ("died_at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                (
                    "state",
                    models.CharField(
                        choices=[("dead", "Dead"), ("requeued", "Requeued")], default="dead", max_length=10
                    ),
                ),
                ("requeued_at", models.DateTimeField(null=True)),
                (
                    "requeued_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-died_at"],
                "permissions": [("requeue_dead_letter", "Can have dead letters and failed outbox entries tried again")],
            },
        ),
    ]
