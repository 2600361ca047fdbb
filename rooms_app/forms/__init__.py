"""Forms for operators: a Django form made from a Pydantic class, which alone says what is valid.

It works without JavaScript, puts Pydantic's errors beside the fields they belong to, and looks like the admin.
"""

from __future__ import annotations

from rooms_app.forms.form import MessageForm, form_class

__all__ = ["MessageForm", "form_class"]
