"""The reader of ``.pt`` files: described, never unpickled."""
