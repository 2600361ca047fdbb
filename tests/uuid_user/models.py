"""The user model."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models


class Person(AbstractUser):
    """Django's own user, but for the primary key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
