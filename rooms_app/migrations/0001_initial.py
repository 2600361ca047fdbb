"""The tables of broadcasts and of the audit log."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from rooms_app.conf import user_model_name

# AUTH_USER_MODEL, whatever the project has set it to.
USER_MODEL = user_model_name()


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                ("actor_name", models.CharField(blank=True, max_length=255)),
                ("action", models.CharField(max_length=50)),
                ("target", models.CharField(db_index=True, max_length=255)),
                ("details", models.JSONField(default=dict)),
                (
                    "actor",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "ordering": ["-at", "-id"],
            },
        ),
        migrations.CreateModel(
            name="Broadcast",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("message_type", models.CharField(max_length=100)),
                ("payload", models.JSONField(default=dict)),
                (
                    "audience",
                    models.CharField(
                        choices=[("everyone", "Everyone"), ("rooms", "Rooms"), ("users", "Users")],
                        default="everyone",
                        max_length=10,
                    ),
                ),
                ("rooms", models.JSONField(blank=True, default=list)),
                ("user_query", models.CharField(blank=True, max_length=255, verbose_name="users by query")),
                ("send_at", models.DateTimeField(blank=True, null=True)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("draft", "Draft"),
                            ("scheduled", "Scheduled"),
                            ("sending", "Sending"),
                            ("sent", "Sent"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="draft",
                        max_length=10,
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("sent_at", models.DateTimeField(null=True)),
                ("reached", models.PositiveBigIntegerField(null=True)),
                ("error", models.TextField(blank=True)),
                ("claimed_until", models.DateTimeField(null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=USER_MODEL,
                    ),
                ),
                (
                    "sent_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=USER_MODEL,
                    ),
                ),
                (
                    "users",
                    models.ManyToManyField(blank=True, related_name="+", to=USER_MODEL, verbose_name="users by choice"),
                ),
            ],
            options={
                "ordering": ["-created_at"],
                "permissions": [("send_broadcast", "Can send messages to users")],
                "indexes": [models.Index(fields=["state", "send_at"], name="rooms_broadcast_due")],
            },
        ),
        migrations.CreateModel(
            name="LiveRoom",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ],
            options={
                "permissions": [
                    ("view_live_rooms", "Can see rooms and who is connected"),
                    ("moderate_rooms", "Can kick users and close rooms"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
    ]
