"""What several tests share: models, runs, launches, stand-ins. Imported as `tests.support.NAME`, started as `-m`."""
