"""Needles: keys, values, the sentences that state them and the questions that ask for them. Standard library only.

A *needle* is a sentence that gives a key (an attribute of an entity) a value:
    The access code for the Lisbon archive is 48213.
"""
import zlib

# --------------------------------------------------------------------------- keys and values
ATTRIBUTES = """access code|badge number|locker code|serial number|reference number|ticket number|vault number|phone extension|
invoice number|case number|account number|registration number|batch number|permit number""".replace("\n", "").split("|")
WORD_ATTRIBUTES = ["password", "secret word", "code word"]
PLACES = """Lisbon Oslo Cairo Geneva Lima Quito Havana Dublin Prague Vienna Athens Warsaw Berlin Madrid Tunis Riga Sofia Zagreb Tokyo
Osaka Seoul Manila Hanoi Delhi Mumbai Lagos Accra Nairobi Dakar Boston Denver Austin Dallas Seattle Toronto Montreal Ottawa Sydney Perth
Auckland Bergen Malmo Turin Naples Verona Lyon Nantes Lille Bruges Ghent Basel Bern Graz Salzburg Krakow Gdansk Tartu Vilnius Minsk Kyiv
Odessa Tbilisi Ankara Izmir Beirut Amman Doha Muscat Karachi Lahore Dhaka Colombo Bangkok Jakarta Santiago Bogota Caracas Recife Cordoba
Panama Leeds Bristol Cardiff Glasgow Belfast Cork Porto Seville Malaga Palermo Corfu Split Varna Reykjavik Tromso Uppsala Aarhus""".split()
ADJECTIVES = """crimson silent golden northern southern eastern western hidden ancient broken frozen marble copper silver purple yellow
orange emerald amber ivory velvet wooden crystal stormy sunny dusty hollow narrow crooked gentle humble noble royal rapid rustic scarlet
secret simple sleepy solid spiral stone sturdy tidy twin upper lower vivid wild winter summer autumn young central distant double electric
floating giant grand green inner outer little lonely lucky modern mossy painted quiet red round sacred shady striped sunken tall white""".split()
OBJECTS = """archive harbour library museum laboratory hospital station warehouse observatory theatre garden bakery bridge factory hotel
chapel cellar depot embassy foundry gallery hangar institute kiosk lodge market monastery office orchard palace pavilion quarry ranch
refinery school shipyard stadium studio tavern terminal tower tunnel university villa vineyard workshop academy airport aquarium arena
bank barn brewery cabin camp canal castle cinema clinic college cottage court dairy dock farm ferry fortress greenhouse gym inn kennel
lighthouse marina mill mine nursery pharmacy plant port prison resort salon shelter shop spa stable store temple vault zoo""".split()
VALUE_WORDS = """anchor apple arrow basket beacon bell bird blanket bottle branch button cactus candle carpet chain cherry circle clock
cloud clover coffee comet compass cookie coral cotton cradle crown dagger daisy diamond dragon drum eagle ember engine falcon feather
fiddle flame flute forest fossil fountain ginger glacier hammer harvest hazel helmet honey island jacket jewel jungle kettle ladder lantern
lemon lily magnet maple meadow melon mirror mountain needle nutmeg oyster paddle parrot pebble pepper piano pillow planet pocket pumpkin
rabbit ribbon river rocket saddle salmon shadow shell spider spoon sunset table thunder tiger timber trumpet tulip turtle umbrella valley
violin walnut whistle willow window zebra""".split()
ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fr gr tr bl cl fl gl pl sl st sk sp th sh ch".split()
VOWELS = "a e i o u a e i o ai ea ou".split()
CODAS = ["", "", "", "n", "r", "l", "s", "m", "nd", "rk", "st", "x", "th"]

STATEMENTS = """The {a} for the {e} is {v}.|The {a} of the {e} is {v}.|For the {e}, the {a} is {v}.|Note that the {a} for the {e} is {v}.|
Remember that the {a} of the {e} is {v}.|The {e} has the {a} {v}.|According to the list, the {a} for the {e} is {v}.|
The {a} that belongs to the {e} is {v}.""".replace("\n", "").split("|")
QUESTIONS = """What is the {a} for the {e}?|What is the {a} of the {e}?|Which {a} does the {e} have?|Tell me the {a} for the {e}.|
Give the {a} of the {e}.|What {a} belongs to the {e}?""".replace("\n", "").split("|")
QUESTIONS_ALL = """What are all the {a}s for the {e}?|List all the {a}s of the {e}.|Give every {a} of the {e}.""".replace("\n", "").split("|")
QUESTIONS_SEVERAL = """What are the {a}s for {es}?|Give the {a}s of {es}.|Tell me the {a}s for {es}.""".replace("\n", "").split("|")


def invented_name(rng):
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((2, 2, 3)))).capitalize()


def random_modifier(rng, invented=0.25):
    if rng.random() < invented:
        return invented_name(rng)
    return rng.choice(PLACES) if rng.random() < 0.5 else rng.choice(ADJECTIVES)


def mention(rng):
    """The name of a place that has no value: filler that looks like a needle."""
    return f"{random_modifier(rng, 0.15)} {rng.choice(OBJECTS)}"


def is_test_entity(entity):
    """One entity in ten is never a key during training."""
    return zlib.crc32(entity.encode()) % 10 == 0


def random_entity(rng, split, modifier=None, obj=None):
    while True:
        entity = f"{modifier or random_modifier(rng)} {obj or rng.choice(OBJECTS)}"
        if is_test_entity(entity) == (split == "test"):
            return entity
        if modifier and obj:
            return None


def random_value(rng, attribute):
    if attribute in WORD_ATTRIBUTES:
        return f"{rng.choice(VALUE_WORDS)} {rng.choice(VALUE_WORDS)}"
    digits = rng.choice((5, 5, 6, 7))
    return str(rng.randrange(10 ** (digits - 1), 10 ** digits))


def random_keys(rng, count, split, hard):
    """`count` different (attribute, entity) keys; hard ones share attributes, modifiers and objects with each other."""
    keys = []
    attributes = ATTRIBUTES + WORD_ATTRIBUTES * 2 if rng.random() < 0.5 else ATTRIBUTES
    if hard:
        attributes = rng.sample(attributes, rng.choice((1, 2, 3)))
        wanted = count if split == "train" else 10 * count / len(attributes)  # one pair in ten is a test entity
        side = max(2 if split == "train" else 8, round(wanted ** 0.5) + rng.randrange(2))
        modifiers = [random_modifier(rng) for _ in range(side)]
        objects = rng.sample(OBJECTS, min(side, len(OBJECTS)))
    for _ in range(count * 300):
        attribute = rng.choice(attributes)
        entity = random_entity(rng, split, rng.choice(modifiers), rng.choice(objects)) if hard else random_entity(rng, split)
        if entity and (attribute, entity) not in keys:
            keys.append((attribute, entity))
            if len(keys) == count:
                break
    return keys


class Fact:
    """A key with its values; more than one value makes it a multi-value fact."""

    def __init__(self, rng, key, values=1):
        self.attribute, self.entity = key
        self.values = [random_value(rng, self.attribute) for _ in range(values)]

    def statements(self, rng):
        return [rng.choice(STATEMENTS).format(a=self.attribute, e=self.entity, v=v) for v in self.values]


def answer_text(text):
    """Words are answered with a leading space: they are then the tokens that the document has."""
    return text if text[0].isdigit() else " " + text


def single_question(rng, fact):
    """(question, answer, expected values) for one fact."""
    template = rng.choice(QUESTIONS_ALL if len(fact.values) > 1 else QUESTIONS)
    return template.format(a=fact.attribute, e=fact.entity), answer_text(", ".join(fact.values)), fact.values


def several_question(rng, facts):
    """One question about several entities; the answer names each entity, which makes every look-up a plain one."""
    names = [f"the {f.entity}" for f in facts]
    question = rng.choice(QUESTIONS_SEVERAL).format(a=facts[0].attribute, es=", ".join(names[:-1]) + " and " + names[-1])
    return question, answer_text(", ".join(f"{f.entity}: {f.values[0]}" for f in facts)), [f.values[0] for f in facts]
