# ruff: noqa: SIM905
"""Word lists from which the training conversations are put together."""

from __future__ import annotations

NAMES = """Ada Adam Agnes Ahmed Aisha Alan Albert Alex Alice Alma Amara Amelia Amir Amy Ana Andrew
Angela Anita Ann Anna Anton Arthur Astrid Aya Barbara Ben Bernd Bianca Boris Brenda Brian Bruno
Camille Carl Carla Carlos Carol Cecilia Chen Chloe Chris Clara Claire Colin Daisy Dan Daniel
Daria David Deborah Diana Diego Dora Edgar Edith Elena Eli Elias Elif Elisa Ella Emil Emily Emma
Eric Erika Esther Eva Fatima Felix Fiona Flora Frank Freya Gabriel George Georgia Gina Grace
Greta Hana Hannah Harold Hassan Hector Helen Henry Hilda Hugo Ian Ibrahim Ida Igor Ines Ingrid
Irene Iris Isaac Isabel Ivan Jack Jacob James Jana Jane Jasmine Joan Joe John Jonas Jorge Jose
Joy Juan Judith Julia June Kai Karen Karim Karl Kate Keiko Kenji Kim Klaus Lara Laura Lea Leila
Lena Leo Leon Liam Lily Lin Linda Lisa Louis Lucas Lucy Luis Luna Mabel Magda Marco Maria Marie
Mark Marta Martin Mary Mateo Max Maya Mei Mia Mina Mohamed Mona Nadia Nancy Naomi Nas Nina Noah
Nora Olga Oliver Olivia Omar Oscar Otto Pablo Paul Paula Pedro Peter Petra Philip Priya Rachel
Rafael Raj Ravi Rebecca Rita Robert Rosa Rose Ruth Sam Samira Sandra Sara Sasha Simon Sofia Sonia
Stefan Stella Sven Tara Theo Thomas Tim Tina Tom Uma Vera Victor Viola Walter Wanda Wei Xavier
Yara Yasmin Yuki Yusuf Zara Zoe""".split()

CITIES = """Amsterdam Athens Auckland Baghdad Bangkok Barcelona Basel Beijing Belfast Berlin Bern
Bogota Bologna Bombay Bonn Boston Bristol Brussels Budapest Cairo Calgary Cardiff Chicago Cologne
Copenhagen Cork Dakar Dallas Delhi Denver Dover Dresden Dublin Durban Edinburgh Florence Geneva
Genoa Ghent Glasgow Graz Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Kabul Kiev Kyoto
Lagos Leeds Leipzig Lima Lisbon Liverpool London Lyon Madrid Manchester Manila Marseille Melbourne
Miami Milan Montreal Moscow Mumbai Munich Nairobi Naples Nice Oslo Ottawa Oxford Paris Perth Porto
Prague Quebec Quito Riga Rome Rotterdam Salzburg Santiago Seattle Seoul Seville Shanghai Sofia
Stockholm Sydney Tallinn Tokyo Toronto Toulouse Tunis Turin Utrecht Valencia Venice Vienna Vilnius
Warsaw York Zagreb Zurich""".split()

JOBS = """actor architect baker barber butcher carpenter chef clerk cook dancer dentist designer
doctor driver editor electrician engineer farmer gardener guard journalist judge lawyer librarian
mechanic musician nurse painter photographer pilot plumber poet potter programmer sailor scientist
singer soldier student tailor teacher translator waiter writer""".split()

ITEMS = """apple bag ball bed belt bicycle book bottle bowl box bread brush bucket cable cake camera
candle chair cheese clock coat cup desk dictionary door drum fan flute fork glass glove guitar
hammer hat heater jacket jar kettle keyboard knife ladder lamp laptop map mirror monitor mug
notebook painting pan pen pencil phone piano pillow plate printer radio ring rope rug saddle scarf
shelf shirt shoe sofa spoon stove suitcase table teapot tent ticket towel toy umbrella vase violin
wallet watch""".split()

ANIMALS = """cat dog horse rabbit parrot hamster turtle goat pony canary snake lizard duck goose
ferret mouse pig sheep donkey""".split()

COLORS = """red blue green yellow black white brown grey orange pink purple silver golden
beige""".split()

MONTHS = """January February March April May June July August September October November
December""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

EVENTS = """concert conference wedding festival lecture exhibition fair match meeting parade play
race reception seminar show tournament workshop""".split()

CONDITIONS = "sunny cloudy rainy windy foggy snowy stormy clear cold warm humid dry".split()

VERBS = """add book call cancel check close convert count create delete fetch find get list load
lock lookup make move open order play post print read rename report reserve save search send set
share show start stop store track translate update write""".split()

NOUNS = """account alarm album article bill calendar card channel code contact document door email
entry event file flight folder game image invoice item job key lamp letter light map message movie
music note number order package page parcel photo playlist price product profile recipe record
reminder report room route score seat song status stock story table task temperature ticket timer
title track train translation user video weather window word""".split()

SYLLABLE_STARTS = """b bl br c ch cl d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl
sn st t th tr v w x y z""".split()
SYLLABLE_VOWELS = "a e i o u a e i o u ai ea ee ia io oo ou".split()
SYLLABLE_ENDS = [""] * 8 + "b d f g k l ll m n nd nk p r rd rt s sh ss st t th x z".split()
