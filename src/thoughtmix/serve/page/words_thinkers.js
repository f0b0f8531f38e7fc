// What thinkers, their options and the options' values are called. The server says it in English; what has no French here stays so.

import { spaced, spoken } from "./words.js";

const LABELS = {
  en: {
    idea: "Text to rewrite", form: "Form of the list", distinct: "No repeats", sees: "What it sees", factor: "Times as many", group: "Which agree", rank: "Between equals", fill: "Fill up", draws: "How they are drawn", read: "Who reads the prompt",
    keep: "Drafts kept", draft: "Seed of the draft", by: "Selected by", report: "Measure each stage", level: "Forgotten share", beta: "Push", ridge: "Slowness", head: "Experts kept", policy: "Decided first", remask: "Taken back", block: "Block",
    holes: "Share of words", boost: "Boost", compete: "How they compete", budget: "Token budget", apart: "Differences by", proposal: "Who draws", rollouts: "Judge to the end", standalone: "As a text of its own", mask: "Which words", order: "Order of directions",
  },
  fr: {
    idea: "Texte à réécrire", strength: "Force", language: "Langue", families: "Familles", directions: "Directions", order: "Ordre des directions", form: "Forme de la liste", demonstrations: "Exemples montrés", chains: "Chaînes", rounds: "Tours",
    distinct: "Sans répétitions", sees: "Ce qu’elle voit", source: "Source", factor: "Combien de fois plus", examples: "Exemples", group: "Lesquelles s’accordent", lists: "Listes", rank: "Entre égales", fill: "Compléter", near: "Proches", draws: "Tirages", read: "Qui lit la consigne", steps: "Étapes", branches: "Branches",
    drafts: "Brouillons", keep: "Brouillons gardés", draft: "Graine du brouillon", stages: "Étages", by: "Choisi par", report: "Mesurer chaque étage", level: "Part oubliée", beta: "Poussée", layer: "Couche", width: "Largeur", ridge: "Lenteur", head: "Experts gardés", profiles: "Profils",
    policy: "Décidé d’abord", remask: "Repris", block: "Bloc", compete: "Concurrence", score: "Jugement", holes: "Part des mots", budget: "Budget de jetons", boost: "Poussée du profil", seconds: "Secondes", step: "Pas", batch: "Lot", rollouts: "Juger jusqu’au bout",
    exploration: "Exploration", evaluators: "Évaluateurs", proposal: "Qui tire", apart: "Écarts par", standalone: "Texte à part", mask: "Quels mots",
  },
};

const VALUES = {
  en: { en: "English", fr: "French" },
  fr: {
    precise: "précis", vague: "vague", chaotic: "chaotique", en: "anglais", fr: "français", independent: "indépendants", arithmetic: "arithmétiques", shared: "partagée", each: "chacune", best: "les meilleures", diverse: "variées", smc: "Monte-Carlo séquentiel", fill: "remplissage", path: "chemin",
    families: "familles", different: "différentes", random: "au hasard", span: "passages", likelihood: "vraisemblance", relevance: "pertinence", difference: "différence", both: "les deux", own: "les siennes", all: "toutes", plain: "simple", json: "JSON", verbalized: "avec probabilités",
    auto: "automatique", words: "mots", embedding: "plongement", none: "aucun", short: "courts", long: "longs", confidence: "confiance", margin: "marge", entropy: "entropie", threshold: "seuil", ancestral: "ancestral", "first-hitting": "premier passage", factor: "facteur", "entropy-bound": "entropie bornée",
    cap: "plafond", rescale: "mise à l’échelle", loop: "boucle", model: "le modèle", catalogue: "catalogue", noise: "bruit", sampling: "tirage", mixture: "mélange", list: "liste", iterate: "itération", plan: "plan", ideas: "idées", agreed: "celles qui s’accordent", sound: "les saines", all: "toutes",
  },
};

/** A thinker's name and what it does. */
const FRENCH = {
  auto: ["automatique", "Choisit : mise en commun là où l’on demande un nom, un titre ou une phrase parmi d’autres, ou la seule réponse juste ; tirage simple pour le reste."],
  sampling: ["tirage", "Tirage simple ; la créativité est la température (0 : la plus probable, 1 : la distribution du modèle), min-p 0,1."],
  mixture: ["mélange", "Routes, modes et bruit tenu dans les branches d’un mélange ou d’une greffe ; la créativité les règle (0 : aucun)."],
  experts: ["experts", "Dirige l’aiguillage d’un modèle à experts : chaque pensée a son profil ou son bruit."],
  explore: ["exploration", "Un tirage qui s’éloigne de ce que son ensemble a déjà vu ; la créativité dit de combien (0 : tirage simple)."],
  list: ["liste", "n réponses différentes en une seule génération, puis séparées ; la créativité est la température."],
  iterate: ["itération", "Chaque pensée voit les précédentes, et une autre est demandée ; la créativité est la température."],
  pool: ["mise en commun", "Tire plusieurs fois n réponses ; garde les courtes qui s’accordent, des longues les saines et les plus différentes."],
  plan: ["plan", "D’abord n spécifications différentes (angle, forme…), puis une réponse à chacune ; la créativité est la température."],
  noise: ["bruit", "Rédige un brouillon, puis le réécrit (ou votre idée) dans n directions ; à créativité 0, c’est le brouillon lui-même."],
  hybrid: ["hybride", "Fait rédiger par un penseur, choisit, puis affine par bruit ou par débruitage ; dit ce que chaque étage apporte."],
  search: ["recherche", "Recherche arborescente parmi des pensées inachevées (PUCT) ; n bonnes feuilles différentes ; la créativité est la température."],
  diffusion: ["diffusion", "Diffusion masquée : une pensée naît tout entière du bruit ; la créativité est la température (0 : la plus probable)."],
};

const DRAWS = "Comment les pensées sont tirées : indépendants, ou arithmétiques : des graines voisines tirent loin l’une de l’autre, chacune restant aussi probable (indépendants si rien n’est dit).";
const BRANCHES = "Chaque suite passe par ses propres branches d’un mélange ou d’une greffe (non si rien n’est dit).";
const DIRECTED = {
  families: "style, angle, constraint, creative, séparés par des virgules (toutes si rien n’est dit) ; leurs directions alternent.", directions: "Des noms séparés par des virgules (voir « thoughtmix noise --list ») ; poem+critic : les deux à la fois.",
  strength: "Comment les instructions sont formulées : précis, vague ou chaotique (précis si rien n’est dit).", language: "Langue des instructions (anglais si rien n’est dit).", order: "Les familles alternent, ou d’abord les n instructions les plus différentes (familles si rien n’est dit).",
  holes: "Part des mots de l’idée qui deviennent des trous à remplir ; seule, ou avec des directions.", mask: "Quels mots : au hasard, ou par passages (au hasard si rien n’est dit).",
};
const HELP = {
  sampling: { draws: DRAWS }, mixture: { draws: DRAWS, read: "Qui lit la consigne : une fois pour toutes, ou chaque pensée par ses propres branches (partagée si rien n’est dit)." },
  experts: {
    profiles: "noise, router, all, discovered, ou une étiquette fournie ; plusieurs avec des virgules (noise si rien n’est dit).", boost: "Combien des biais d’un profil : 1, tels qu’ils ont été trouvés (1 si rien n’est dit).", head: "Sous le bruit, tant d’experts d’un jeton restent comme l’aiguillage les veut (0 si rien n’est dit).",
    read: "Qui lit la consigne : une fois, par l’aiguillage du modèle, ou chaque pensée par le sien (partagée si rien n’est dit).",
  },
  explore: {
    draws: DRAWS, beta: "De combien gagne un jeton que l’on dit plus ici que là où l’ensemble est passé ; multiplié par la créativité (0,25 si rien n’est dit).", layer: "Après combien de couches du modèle l’observateur regarde (1 si rien n’est dit).", width: "Directions de cet état qu’il regarde (128 si rien n’est dit).", ridge: "Lenteur de son apprentissage : les jetons vus pèsent peu contre ce nombre (100 si rien n’est dit).",
  },
  list: {
    draws: DRAWS, branches: BRANCHES, form: "Comment la liste est écrite : simple (numérotée), JSON, ou avec des probabilités énoncées (simple si rien n’est dit).", demonstrations: "Listes montrées avant, dont les petits modèles ont besoin (si rien n’est dit, deux là où un nom est demandé, sinon aucune).", chains: "Listes écrites côte à côte, chacune d’une partie des n (si rien n’est dit, quatre d’un modèle d’ici, puisque les petits modèles recopient une longue liste ; une d’un modèle ailleurs).",
    rounds: "Combien de fois une liste peut être demandée, ou ce qui lui manque (3 si rien n’est dit).", distinct: "Écarter ce qu’une autre des listes contient aussi (oui si rien n’est dit).", fill: "Demander à part ce qu’aucune liste n’a donné (oui si rien n’est dit).",
  },
  iterate: { draws: DRAWS, branches: BRANCHES, chains: "Conversations côte à côte ; la pensée i est dans la conversation i modulo ce nombre (4 si rien n’est dit).", sees: "Quelles pensées précédentes : celles de sa chaîne, ou toutes celles des tours d’avant (toutes si rien n’est dit).", demonstrations: "Conversations montrées avant, dont les petits modèles ont besoin (2 si rien n’est dit)." },
  pool: {
    source: "Le penseur qui tire ; automatique : liste là où un nom est demandé, sinon tirage ; plan : d’abord une idée pour chacune (automatique si rien n’est dit).", factor: "Réponses tirées pour chacune de celles que l’on veut (4 en listes, 1,5 là où l’on garde les saines, sinon 3 si rien n’est dit).", keep: "Ce qui est gardé : les réponses sur lesquelles le plus s’accordent, demandées courtes ; ou, de textes entiers, les plus différents qui sont complets, ne répètent rien et s’en tiennent à la consigne ; ou toutes, courtes, d’abord celles qui disent ce que disent la plupart ; automatique : les saines là où l’on demande une phrase ou plus, toutes là où une seule réponse est juste (automatique si rien n’est dit).", lists: "Listes dans lesquelles elles sont écrites, côte à côte (8 si rien n’est dit).", rank: "Ce qui départage les réponses courtes aussi partagées : la proximité avec la consigne, ou la vraisemblance (pertinence si rien n’est dit).", draws: "Comment elles sont tirées : automatique veut dire arithmétiques là où c’est possible (automatique si rien n’est dit).", examples: "Montrer d’abord des exemples de réponses, courts ou longs, que les petits modèles prennent pour règle (aucun si rien n’est dit).",
    group: "Quelles réponses s’accordent : par les mots, à la casse près ; par le plongement, les proches (automatique si rien n’est dit).", near: "Écart (1 − cosinus) au-dessous duquel deux réponses s’accordent (0,15 si rien n’est dit).",
  },
  plan: { draws: DRAWS, branches: BRANCHES, source: "D’où viennent les spécifications : des idées, réponses courtes du modèle, chacune ensuite développée ; du modèle, qui écrit des directions pour la consigne ; du catalogue ; des directions du bruit (si rien n’est dit, des idées d’un modèle d’ici, sinon du modèle).", factor: "Spécifications écrites pour chacune de celles qui servent : les plus différentes (2 si rien n’est dit).", demonstrations: "Listes de spécifications montrées avant (1 si rien n’est dit)." },
  noise: { ...DIRECTED, idea: "Un texte à déranger ; sans lui, une réponse à la consigne est d’abord rédigée.", standalone: "Réécrire l’idée comme un texte à part, et non comme une réponse à la consigne (non si rien n’est dit).", draft: "Une graine : le brouillon est tiré par elle à la température 1 ; sans elle, la réponse la plus probable." },
  hybrid: {
    ...DIRECTED, stages: "Un penseur, puis select, noise et renoise dans l’ordre que l’on veut (sampling>select>noise si rien n’est dit).", drafts: "Textes rédigés d’abord (8 si rien n’est dit).", keep: "Combien de brouillons une sélection laisse (la moitié si rien n’est dit).", draft: "La graine du premier brouillon ; les brouillons ne dépendent pas des graines des pensées (0 si rien n’est dit).",
    by: "Ce qui choisit ; les deux : vraisemblance et différence (vraisemblance si rien n’est dit ; d’un modèle ailleurs, pertinence).", report: "Mesurer ce que chaque étage apporte (oui si rien n’est dit).", level: "Part des jetons d’un brouillon que le débruitage oublie (0,5 si rien n’est dit).",
  },
  search: {
    budget: "Jetons tirés en tout (4 fois n pensées entières si rien n’est dit).", seconds: "Durée limite de la recherche elle-même, hors chargement et mesure ; l’ensemble dépend alors aussi de la machine.", step: "Jetons d’un nœud (8 si rien n’est dit).", width: "Enfants tirés à une feuille (4 si rien n’est dit).", batch: "Feuilles qui poussent en même temps (4 si rien n’est dit).",
    rollouts: "Juger un enfant par une suite jusqu’au bout (non si rien n’est dit).", exploration: "Constante de PUCT (0,5 si rien n’est dit).", evaluators: "Ce qui est bon, avec des poids ; aussi novelty, relevance, length, judge (likelihood=1,repetition=1,substance=1 si rien n’est dit).", proposal: "Ce qui tire : tirage, ou mélange (tirage si rien n’est dit).", apart: "Comment les écarts de l’ensemble se mesurent : par les mots ou le plongement (mots si rien n’est dit).",
  },
  diffusion: {
    steps: "Passes par pensée, ou une par jeton quand il y en a moins (128 si rien n’est dit).", policy: "Quelles places se décident d’abord (au hasard ; à créativité 0, par confiance).", remask: "Reprendre des jetons pour corriger des erreurs : plafond, mise à l’échelle, confiance ou boucle.", block: "Remplir tant de jetons à la fois, de gauche à droite ; 0 : tous (0 si rien n’est dit).",
    branches: "Branches de chaque pensée, qui ne rivalisent qu’entre elles (1 si rien n’est dit).", compete: "Comment elles rivalisent (les meilleures si rien n’est dit).", score: "Ce qui les juge en chemin (remplissage si rien n’est dit).",
  },
};

const french = () => spoken() === "fr";
const upper = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

/** A thinker by its name, with the one that is typed at the command line. */
export const thinkerName = (name) => (french() && FRENCH[name] && FRENCH[name][0] !== name ? `${FRENCH[name][0]} (${name})` : name);

/** What a thinker does: {words, lang they are in}. */
export function thinkerSummary(thinker) {
  const own = french() ? FRENCH[thinker?.name]?.[1] : undefined;
  return own ? { words: spaced(own), lang: "fr" } : { words: thinker?.summary ?? "", lang: "en" };
}

export const optionLabel = (thinker, name) => LABELS[spoken()][`${thinker}.${name}`] ?? LABELS[spoken()][name] ?? upper(name);

/** What an option is for: {words, lang they are in}. english: the server's help. */
export function optionHelp(thinker, name, english) {
  const own = french() ? HELP[thinker]?.[name] : undefined;
  return own ? { words: spaced(own), lang: "fr" } : { words: english, lang: "en" };
}

export const valueName = (value) => VALUES[spoken()][value] ?? value;

export const known = { FRENCH, HELP, LABELS, VALUES }; // for the test that every thinker and option is there
