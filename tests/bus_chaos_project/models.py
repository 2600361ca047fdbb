"""What handlers change: nothing here bears being done twice unnoticed."""

from django.db import models


class Effect(models.Model):
    """A message has had its effect."""

    number = models.IntegerField(unique=True)

    def __str__(self) -> str:
        return f"effect of {self.number}"


class Total(models.Model):
    """How many effects there were: one row, which each of them adds to."""

    count = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.count} effects"


class Saved(models.Model):
    """What a publisher saves in the transaction in which it publishes."""

    number = models.IntegerField(unique=True)

    def __str__(self) -> str:
        return f"{self.number} is saved"
