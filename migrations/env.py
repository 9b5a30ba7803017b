"""Alembic's entry: runs the migrations on the connection that `accounting.store.engine.migrate` hands over.

A developer's `alembic -c migrations/alembic.ini -x url=sqlite:///PATH COMMAND` gets a connection of its own.
"""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from accounting.store.engine import connect, writing
from accounting.store.partitions import is_compared
from accounting.store.schema import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transactional_ddl=True,  # also on SQLite: see the listeners in accounting/store/engine.py
        render_as_batch=True,  # SQLite alters a table only by copying it
        include_object=is_compared,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not isinstance(url, str):
        raise CommandError("say which database: alembic -c migrations/alembic.ini -x url=sqlite:///PATH ...")
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=Base.metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
    else:
        with writing(connect(url)) as own:
            run(own)
            own.commit()
