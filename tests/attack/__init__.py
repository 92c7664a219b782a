"""A standing attack on whatever reads what users, other programs and strangers wrote.

``readers`` lists every reader with valid examples, and what a result must satisfy. ``mutations`` damages examples.
``test_readers`` does so with hypothesis in every test run, longer in the slow ones; ``fuzz`` does it for as long as one
likes, guided by coverage (``make fuzz``). Whatever is found becomes an example in ``test_found`` and is mended where
the reader is. A new reader is a line in ``readers``; a new kind of damage a line in ``mutations``.

Forged results of calculations, which are well-formed and wrong, are attacked where they are judged:
``tests/reference/test_faults.py`` and ``docs/faults.md``.
"""
