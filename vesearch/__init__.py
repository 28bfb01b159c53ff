"""Visual entity search: folders of photos become a searchable collection of entities."""

__version__ = "0.1.0"
