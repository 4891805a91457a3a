"""Names of objects, and the words that people use for each: the 80 classes of COCO, and others that
captions often name. Plurals and other inflections need no entry."""

_CLASSES = """
    person: man, woman, boy, girl, child, kid, baby, toddler, infant, people, lady, gentleman,
        guy, adult, teenager, pedestrian, player, skier, snowboarder, surfer, skateboarder, rider,
        cyclist, bicyclist, motorcyclist, biker, driver, passenger, worker, chef, waiter, waitress,
        officer, policeman, soldier, firefighter, crowd, bride, groom, mother, father, son,
        daughter, batter, catcher, umpire, spectator, student, teacher, farmer, shopper, customer,
        tourist, athlete, dancer, musician, family, friend, individual, someone
    bicycle: bike, cycle
    car: automobile, sedan, suv, taxi, cab, minivan, hatchback, jeep, convertible, van
    motorcycle: motorbike, motor bike, scooter, moped, motor scooter
    airplane: plane, aeroplane, aircraft, jet, jetliner, airliner, biplane
    bus: minibus, double decker
    train: locomotive, tram, streetcar, subway car, railcar, train car
    truck: lorry, pickup, pickup truck, semi, fire truck, dump truck, fire engine, trailer
    boat: ship, sailboat, canoe, kayak, yacht, ferry, gondola, raft, rowboat, dinghy, vessel
    traffic light: stoplight, stop light, traffic signal, street light signal
    fire hydrant: hydrant
    stop sign:
    parking meter:
    bench: pew, park bench
    bird: duck, goose, gull, seagull, pigeon, dove, parrot, owl, crow, eagle, hawk, swan, penguin,
        ostrich, peacock, flamingo, sparrow, robin, rooster, pelican, heron, parakeet
    cat: kitten, kitty
    dog: puppy, pup, hound, terrier, poodle, bulldog, labrador, retriever, dachshund, pug
    horse: pony, foal, stallion, mare, colt
    sheep: lamb, ram, ewe
    cow: bull, calf, cattle, ox, steer, bison
    elephant:
    bear: polar bear, grizzly, cub, panda
    zebra:
    giraffe:
    backpack: rucksack, knapsack, back pack
    umbrella: parasol
    handbag: purse, hand bag, tote, tote bag, shoulder bag
    tie: necktie, bow tie, neck tie
    suitcase: luggage, briefcase, baggage, suit case
    frisbee: flying disc, flying disk
    skis: ski
    snowboard: snow board
    sports ball: ball, baseball, football, basketball, tennis ball, soccer ball, volleyball,
        softball
    kite:
    baseball bat: bat
    baseball glove: glove, mitt, catcher mitt
    skateboard: skate board
    surfboard: surf board, boogie board, bodyboard
    tennis racket: racket, racquet, tennis racquet
    bottle: wine bottle, beer bottle, water bottle, flask
    wine glass: wineglass, goblet, champagne glass, glass of wine
    cup: mug, teacup, coffee cup, tumbler, drinking glass
    fork:
    knife:
    spoon:
    bowl: salad bowl, mixing bowl
    banana:
    apple:
    sandwich: burger, hamburger, cheeseburger, panini
    orange: orange slice, tangerine, mandarin
    broccoli:
    carrot:
    hot dog: hotdog, frankfurter
    pizza:
    donut: doughnut
    cake: cupcake, cheesecake, birthday cake, wedding cake
    chair: armchair, stool, recliner, rocking chair, wheelchair, high chair, seat
    couch: sofa, loveseat, settee
    potted plant: houseplant, pot plant, house plant, potted flower
    bed: bunk bed, mattress, crib
    dining table: table, dinner table, desk, kitchen table, coffee table, picnic table
    toilet: urinal, commode
    tv: television, television set, tv set, flat screen
    laptop: laptop computer, notebook computer, macbook
    mouse: computer mouse
    remote: remote control, game controller, wii remote, wiimote
    keyboard: computer keyboard
    cell phone: cellphone, mobile phone, smartphone, phone, telephone, iphone
    microwave: microwave oven
    oven: stove, stovetop, cooker
    toaster: toaster oven
    sink: washbasin, basin
    refrigerator: fridge, freezer
    book: textbook, notebook, magazine
    clock: wall clock, alarm clock, clock tower
    vase: flower vase
    scissors: scissor, shears
    teddy bear: teddy, stuffed animal, stuffed bear, plush toy, stuffed toy, soft toy
    hair drier: hair dryer, hairdryer, blow dryer
    toothbrush: tooth brush
    tree: palm, palm tree, pine, oak
    flower: rose, tulip, daisy, sunflower, blossom
    grass: lawn, turf
    bush: shrub, hedge
    mountain: hill, cliff
    river: stream, creek
    sea: ocean
    lake: pond
    beach: shore, seashore
    snow:
    cloud:
    sun:
    rock: boulder, stone
    road: street, highway, avenue, lane
    sidewalk: pavement, footpath
    bridge: overpass, footbridge
    building: skyscraper, tower, tower block, apartment building
    house: home, cottage, cabin, hut
    church: cathedral, chapel
    fence: railing, picket fence
    wall: brick wall
    window: windowpane
    door: doorway
    stairs: staircase, stairway
    roof: rooftop
    floor:
    ceiling:
    carpet: rug, mat
    curtain: drape, blinds
    pillow: cushion
    blanket: quilt, comforter, duvet
    towel:
    mirror:
    lamp: lampshade, floor lamp, table lamp
    candle:
    painting: picture frame, framed picture, framed photograph
    poster: billboard
    flag: banner
    shelf: bookshelf, bookcase
    cabinet: cupboard
    drawer: dresser
    counter: countertop, worktop
    bathtub: bath tub, tub
    shower:
    plate: dish, saucer
    tray: platter
    pan: frying pan, skillet
    pot: saucepan
    basket:
    box: carton, crate, cardboard box
    bag: plastic bag, paper bag, sack
    bread: loaf, toast, bun, bagel
    cheese:
    egg:
    meat: steak, beef, pork, bacon, ham, sausage
    fish: salmon
    rice:
    pasta: spaghetti, noodle
    salad:
    soup:
    fries: french fries
    tomato:
    potato:
    onion:
    pepper: bell pepper
    lemon: lime
    strawberry:
    grape:
    cookie: biscuit
    coffee:
    hat: cap, beanie, straw hat, baseball cap
    helmet:
    shirt: t shirt, tshirt, tee shirt, blouse
    jacket: coat, blazer
    suit: tuxedo
    dress: gown
    skirt:
    pants: trousers, jeans
    shorts:
    shoe: boot, sneaker, sandal, heels
    sock:
    scarf:
    eyeglasses: sunglasses, glasses, spectacles, goggles
    wristwatch:
    necklace:
    ring:
    camera: camcorder
    computer: monitor, computer monitor, desktop computer, computer screen, pc
    guitar: violin, ukulele
    piano:
    ceiling fan:
    fireplace:
    wheel: tire
    sign: street sign, signpost, road sign
    statue: sculpture
    fountain:
    tent: canopy
    cart: wagon, carriage, stroller
    ladder:
    rope:
    goat:
    pig: piglet
    rabbit: bunny
    monkey: ape, gorilla
    lion: lioness
    tiger:
    deer: antelope, moose, reindeer
    butterfly: moth
    bee: bumblebee, bumble bee
    toy: doll
"""

IGNORED = """
    home plate, license plate, number plate, train track, train station, railroad track, bus stop,
    bus station, hot plate, orange juice, apple juice, horse race, dog house, bird house,
    seat belt, table tennis, table cloth, at home, back home, baseball game,
    baseball field, baseball diamond, baseball uniform, football game, football field,
    basketball court, tennis court, tennis match, tennis game, bed room,
    light house, water fall, wall paper, ring road, rock music, box office, sun light, book store,
    phone call, car park, stone wall, orange color, orange colour, orange and white, bird bath
"""
"""Phrases that contain the name of an object and mean none, or another."""


def read_table() -> dict[str, list[str]]:
    """The words for each object, its name first."""
    table: dict[str, list[str]] = {}
    for line in _CLASSES.strip().split("\n"):
        name, is_new, words = line.strip().rpartition(":")
        name = name if is_new else list(table)[-1]
        table.setdefault(name, [name]).extend(
            one.strip() for one in words.split(",") if one.strip()
        )
    return table
