"""Data classes, made without compiling anything: what this package has in place of the standard library's.

That one writes the methods of each class as text and compiles them whenever the class is made, which takes up to 2 ms,
and it imports `inspect`: of `gear ps` it was a third, of `gear install` more.  Here the methods are functions that look
at the names of the fields.  For type checkers this is the standard library's decorator, and it does the same for what
gear uses of it: fields with defaults or `default_factory`, `frozen`, `repr=False`; no inheritance, no slots.  An
instance is what `dataclasses.replace()` takes, too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import replace as replace
else:
    _MISSING = object()
    _set = object.__setattr__

    class Field:
        """What is known of one field."""

        # What dataclasses.replace() asks of a field: it is one of __init__(), and neither of the special kinds.
        init, _field_type = True, None

        def __init__(self, default, default_factory, repr):
            self.name, self.default, self.default_factory, self.repr = "", default, default_factory, repr

    def field(*, default=_MISSING, default_factory=None, repr=True):
        """A field with more to say of it than its default."""
        return Field(default, default_factory, repr)

    def fields(what):
        """The fields of a data class or of an instance of one, in their order."""
        return tuple(what.__dataclass_fields__.values())

    def replace(instance, /, **changes):
        """Another instance that differs in *changes*."""
        return type(instance)(**{**vars(instance), **changes})

    def dataclass(cls=None, /, *, frozen=False):
        """The decorator: as it is, or called with `frozen`."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen)
        found = {name: _taken(cls, name) for name in cls.__annotations__}
        for name, item in found.items():
            if isinstance(item.default, (list, dict, set)):
                raise ValueError(
                    f"{name} of {cls.__name__} would be shared by all instances: give a default_factory"
                )
        own = {"__init__": _initializer(cls.__qualname__, found), "__eq__": _equal, "__repr__": _shown}
        own["__hash__"] = _hash if frozen else None
        if frozen:
            own |= {"__setattr__": _refused, "__delattr__": _refused}
        for name, value in own.items():
            if name not in vars(cls) or (name == "__hash__" and vars(cls)[name] is None):
                setattr(cls, name, value)
        cls.__dataclass_fields__, cls.__match_args__ = found, tuple(found)
        return cls

    def _taken(cls, name):
        """The field *name* as the class has it written."""
        written = vars(cls).get(name, _MISSING)
        found = written if isinstance(written, Field) else Field(written, None, True)
        found.name = name
        if isinstance(written, Field):
            if found.default is _MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, found.default)
        return found

    def _initializer(title, found):
        names, all_names = tuple(found), found.keys()
        defaults = {name: item.default for name, item in found.items() if item.default is not _MISSING}
        factories = [(name, item.default_factory) for name, item in found.items() if item.default_factory]

        def __init__(self, /, *given, **values):
            if given:
                named = dict(zip(names, given))  # noqa: B905 (that there are too many is seen below)
                if len(given) > len(names) or not values.keys().isdisjoint(named):
                    raise TypeError(f"{title}() got more than its fields, or one of them twice")
                values = named | values
            if len(values) < len(names):
                values = defaults | values
                for name, make in factories:
                    if name not in values:
                        values[name] = make()
            if values.keys() != all_names:
                raise TypeError(f"{title}() has no or no value for: {', '.join(values.keys() ^ all_names)}")
            # One by one, always in this order: then all instances share the names, which takes half the memory.
            for name in names:
                _set(self, name, values[name])

        return __init__

    def _equal(self, other):
        return vars(self) == vars(other) if other.__class__ is self.__class__ else NotImplemented

    def _hash(self):
        own = vars(self)
        return hash(tuple([own[name] for name in self.__match_args__]))

    def _shown(self):
        shown = [f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _refused(self, name, *_):
        raise AttributeError(f"{name!r} of {type(self).__name__} can't be changed")
