"""Job identities from content; kept here under the name engines know it by."""

from phonosmith.core.identity import fix_identities, has_content_identity

__all__ = ["fix_identities", "has_content_identity"]
