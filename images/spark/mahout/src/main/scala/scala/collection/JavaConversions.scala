package scala.collection

import java.{lang => jl, util => ju}
import scala.jdk.CollectionConverters._
import scala.language.implicitConversions

/** The implicit conversions that Mahout imports from this object, which Scala 2.13 no longer has. */
object JavaConversions {
  implicit def iterableAsScalaIterable[A](from: jl.Iterable[A]): Iterable[A] = from.asScala
  implicit def asScalaIterator[A](from: ju.Iterator[A]): Iterator[A] = from.asScala
  implicit def asScalaBuffer[A](from: ju.List[A]): mutable.Buffer[A] = from.asScala
  implicit def asScalaSet[A](from: ju.Set[A]): mutable.Set[A] = from.asScala
  implicit def mapAsScalaMap[A, B](from: ju.Map[A, B]): mutable.Map[A, B] = from.asScala
  implicit def asJavaIterable[A](from: Iterable[A]): jl.Iterable[A] = from.asJava
  implicit def asJavaIterator[A](from: Iterator[A]): ju.Iterator[A] = from.asJava
  implicit def seqAsJavaList[A](from: Seq[A]): ju.List[A] = from.asJava
  implicit def setAsJavaSet[A](from: Set[A]): ju.Set[A] = from.asJava
  implicit def mapAsJavaMap[A, B](from: Map[A, B]): ju.Map[A, B] = from.asJava
}
