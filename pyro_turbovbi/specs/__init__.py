"""Declarative descriptions: files, schemas made from the classes themselves, errors with lines."""
